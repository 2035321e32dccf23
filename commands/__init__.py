"""Commands of `combo`: each parses, calls one function of the pipeline, prints."""
