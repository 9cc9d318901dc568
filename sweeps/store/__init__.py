"""What runs leave behind, as tables: read, kept in an index, checked, cleared away; and what other tools left."""
