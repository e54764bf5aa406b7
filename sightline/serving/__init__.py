"""What a production line touches: streams' sources and the server."""
