"""What a production line touches: where frames come from, and the server."""
