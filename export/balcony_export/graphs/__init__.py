"""ONNX graphs: stages built layer by layer, weights rounded, all in one data file."""
