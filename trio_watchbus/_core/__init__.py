"""What every bus shares: no input or output, no clock, no thread."""
