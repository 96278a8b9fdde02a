"""The wire contract of StepStream, shared by client and server. `v1` only ever grows; generated code beside each .proto."""
