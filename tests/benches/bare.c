/* The least that a pass over N files can cost: opens, reads and compares each with what it should hold.
   cc -O2 bare.c -o bare; bare N FOLDER HOST */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

int main(int count, char **words) {
  if (count != 4) return 2;
  int files = atoi(words[1]), different = 0;
  static char found[65536], wanted[65536];
  for (int file = 0; file < files; file++) {
    char path[4096];
    snprintf(path, sizeof path, "%s/%d.conf", words[2], file);
    int length = snprintf(wanted, sizeof wanted, "# managed file %d\nname = app%d\nport = %d\nhost = %s\n", file, file,
                          10000 + file, words[3]);
    int opened = open(path, O_RDONLY);
    struct stat meta;
    fstat(opened, &meta);
    ssize_t got = read(opened, found, sizeof found);
    if (got != length || memcmp(found, wanted, length)) different++;
    close(opened);
  }
  printf("%d different\n", different);
  return different != 0;
}
