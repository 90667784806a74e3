"""From a prompt to a reply: text to ids, the decode loop, the reply around it, chat templates."""
