"""Replay: recorded replies on a simulated device, and everything that the governor is compared with there.

``records`` are recorded replies, ``traces`` what happens to the device meanwhile. ``replay`` plays a decider over both.
``baselines`` are the deciders to compare with, ``contest`` the comparison.
"""
