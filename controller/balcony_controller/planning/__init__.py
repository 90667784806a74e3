"""Policies that are solved in advance, and the selection of the one in force.

``solver`` makes a ``policy`` from ``step_costs`` and ``forecast``. ``library`` holds the policies of all sets of depths
worth using, with what decoding has shown about their costs. ``selector`` chooses among these as the budget's accounts
move;
``opening`` and ``speed_trials`` answer two questions for it: whether a reply should begin deep, and which lossless
policy is the fastest by the clock.
"""
