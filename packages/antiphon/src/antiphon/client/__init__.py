"""A WebRTC client made of the project's own cores. `antiphon load` and the tests make calls with it."""
