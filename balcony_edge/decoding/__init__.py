"""One reply: the decode loop and the driver around it, text in and out, chat templates."""
