"""The engine runs a bundle's graphs: stages (one ONNX graph, its KV cache, a cursor) and the ladder they form."""
