"""The wire contracts: `v1` is StepStream's own and only ever grows, `oip` that of others. Generated code beside each .proto."""
