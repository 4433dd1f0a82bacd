"""The compiled part, a room for each question: docs/how_it_works.md has what each answers and may import."""
