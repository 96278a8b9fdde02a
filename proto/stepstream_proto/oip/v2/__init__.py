"""`stepstream.oip.v2`: generated from the .proto file beside this one by `make proto`; never edited by hand."""
