"""The StepStream server. Operators run `stepstream-server`; nothing here is a public Python interface but `bundles`."""
