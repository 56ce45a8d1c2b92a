"""Between the socket and the routes: keys, limits, deadlines, and the form of an error."""
