"""What the controller is told of a bundle and a device, and what it decided."""
