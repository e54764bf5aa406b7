"""The methods, the batching of masked passes, fusion, and the explanation they end in."""
