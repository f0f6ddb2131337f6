"""QR codes, markers and one-time tokens that a camera reads: beside the frames' way, never in it."""
