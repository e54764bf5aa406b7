"""What Sightline shows in a browser: HTML pages, each one file that needs no network."""
