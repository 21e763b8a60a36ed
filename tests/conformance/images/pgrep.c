/* pgrep NAME: the numbers of the processes in whose command NAME occurs, but for its own. */
#include <ctype.h>
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int matches(const char *pid, const char *name)
{
	char path[300], command[64] = "";
	FILE *file;

	snprintf(path, sizeof path, "/proc/%s/comm", pid);
	file = fopen(path, "r");
	if (!file)
		return 0; /* it has ended meanwhile */
	if (!fgets(command, sizeof command, file))
		command[0] = 0;
	fclose(file);
	return strstr(command, name) != NULL;
}

int main(int argc, char **argv)
{
	struct dirent *entry;
	DIR *processes = opendir("/proc");
	int found = 0;

	if (argc != 2 || !processes)
		return 2;
	while ((entry = readdir(processes)))
		if (isdigit((unsigned char)entry->d_name[0]) && atoi(entry->d_name) != getpid() &&
		    matches(entry->d_name, argv[1])) {
			puts(entry->d_name);
			found = 1;
		}
	closedir(processes);
	return !found;
}
