"""The commands of the command line, one module each. Nothing else imports them."""
