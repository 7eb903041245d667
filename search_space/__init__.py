"""The grammar: operators, expressions, the spaces that count them, and the module that runs one."""
