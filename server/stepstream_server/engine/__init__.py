"""The idea, in plain Python and numpy: sessions, their numbered steps, and the turns that compute them.

Knows neither gRPC nor torch nor ONNX Runtime nor Prometheus; they meet it at the Protocols of `ports`.
"""
