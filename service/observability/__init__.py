"""What an operator sees: the record of a request, and the log, metrics and traces made of it."""
