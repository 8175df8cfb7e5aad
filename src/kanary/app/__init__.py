"""The local server and its web page: what an index holds, and what a text makes of an SAE, in a browser."""
