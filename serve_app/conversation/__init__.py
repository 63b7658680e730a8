"""A conversation in the terms of OpenAI's Realtime API: turns, items, responses; one model, two dialects."""
