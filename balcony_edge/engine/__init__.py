"""The engine: stages (one ONNX graph, its KV cache, a cursor) and the ladder that they form."""
