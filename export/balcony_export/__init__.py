"""The workstation side: Balcony modules, distillation, graph building, quantisation and the bundle writer.

Arrows: ``balcony_export`` imports ``balcony_edge`` (the bundle format has its one home there), never the reverse;
its verbs join the command line through the entry-point group ``balcony_edge.commands``.
"""
