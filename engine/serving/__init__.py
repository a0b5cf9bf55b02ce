"""The encoder as a server over HTTP: OpenAI's and text-embeddings-inference's schemas, limits, metrics, drain."""
