CHUNK: int
