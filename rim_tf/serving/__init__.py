"""A small server of SavedModels by TensorFlow Serving's protocol, for where the stock server is not at hand."""
