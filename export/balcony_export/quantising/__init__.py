"""Weights of 8 and 4 bits that a real model survives: rounded for the activations, and bits where they count."""
