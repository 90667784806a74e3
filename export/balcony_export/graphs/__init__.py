"""ONNX graphs of a bundle: built layer by layer, with rounded weights, over one weights file that all share."""
