"""Policies that are solved in advance, and the selection of the one in force.

``solver`` makes a ``policy`` from ``step_costs`` and ``forecast``. ``solved`` holds the policies of all sets of depths
worth using. ``selector`` chooses the mode (``modes``) and the policy as the budget's accounts move. Two others answer
questions for it: ``savings``, whether a reply should begin deep, and ``lossless``, which lossless policy is the fastest
by the clock. ``features`` says which mechanisms are in use.
"""
