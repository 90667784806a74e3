"""``make test-arm``: the device side's tests on an emulated aarch64 machine, with a Jetson's wheels."""
