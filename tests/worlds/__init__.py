"""Small worlds with known answers that several tests share; a test imports from here, never from another test."""
