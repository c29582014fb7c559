"""A caller made of the project's own cores: what `antiphon load` and the tests call with."""
