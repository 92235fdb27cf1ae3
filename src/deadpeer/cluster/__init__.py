"""Who owns an SPI."""
