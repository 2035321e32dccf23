"""Stage one: run frozen models over every frame once, and write what they find into caches."""
