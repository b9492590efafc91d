"""What the operator decides: every setting, where its value comes from, and the socket that it opens."""
