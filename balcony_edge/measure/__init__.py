"""Measures bundles and the controller: bench, reply records and load traces for replay, pictures."""
