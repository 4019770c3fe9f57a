"""Is this module a guard? What it exports, imports and holds is checked before anything of it is compiled or runs."""
