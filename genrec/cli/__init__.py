"""The command line, and the pipeline that it drives: the one room that may import all the others, lazily."""
