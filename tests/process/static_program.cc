// What `apta exec` refuses: a program without a dynamic loader.
int main() { return 0; }
