"""An OpenAI-compatible server over one bundle: several replies at once, each under a budget of its own.

Needs the extra ``[serve]``.
"""
