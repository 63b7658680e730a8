"""Makes the weights of `serve_app.models.hearing` from synthetic speech whose phones are known."""
