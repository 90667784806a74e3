"""Clocks of the device: read, and set for a while if the caller asks for it; what was changed is always put back.

    for knob in find_knobs(Sysfs(), modes=("MAXN_SUPER", "15W"), gpu=True):
        with ClockSwitch(knob, Sysfs()) as switch:
            switch.set(switch.clocks[-1])     # the slowest

Three things see to it: the block's end; a small process, which puts back when this one is gone, however it ended; and
a journal on disk, from which the next start puts back if both were killed (``restore_left_over``).
"""
