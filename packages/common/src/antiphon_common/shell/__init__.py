"""The Trio code that several services share: sockets, HTTP, signals, files. Everything else in `antiphon_common` is
free of IO, but for `KeyRing.load` and the settings, which read their files at start."""
