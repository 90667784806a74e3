"""What several test files share besides fixtures. On the path as ``helpers``, so that the wheel's tests find it too."""
