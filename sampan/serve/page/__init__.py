"""The web page: static files in `static/`, without a build step, and the router that serves them."""
