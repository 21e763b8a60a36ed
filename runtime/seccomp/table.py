"""The RuntimeDefault profile as tables: which system calls a container may make.

``profile`` turns them into rules. The profile is an allow list: a call that no table
names is refused with EPERM, one that the kernel got after this list was written with
ENOSYS, so that C libraries fall back. Left out on purpose, whatever the capabilities:

* io_uring_*: a second kernel interface beside the filtered one.
* userfaultfd: it stops the kernel at a point of the caller's choice.
* keyctl, add_key, request_key: keyrings are not namespaced.
* kexec_*, swapon, swapoff, nfsservctl, uselib, ustat, sysfs, _sysctl: the host's.
* move_pages, migrate_pages: they move the memory of other processes.

Known gap, as with every filter on numbers: 32-bit ``socketcall`` has its arguments in
memory, so the address family cannot be seen there.

Invariant: names only, as libseccomp and the kernel's syscall.tbl spell them.
"""

from __future__ import annotations

_FILES = """
access chdir chmod chown chown32 close close_range copy_file_range creat dup dup2 dup3 faccessat faccessat2
fadvise64 fadvise64_64 fallocate fchdir fchmod fchmodat fchmodat2 fchown fchown32 fchownat fcntl fcntl64 fdatasync
file_getattr file_setattr flock fstat fstat64 fstatat64 fstatfs fstatfs64 fsync ftruncate ftruncate64 futimesat
getcwd getdents getdents64 ioctl lchown lchown32 link linkat listmount _llseek lseek lstat lstat64 mkdir mkdirat
mknod mknodat name_to_handle_at newfstatat open openat openat2 pread64 preadv preadv2 pwrite64 pwritev pwritev2 read
readahead readlink readlinkat readv rename renameat renameat2 rmdir sendfile sendfile64 splice stat stat64 statfs
statfs64 statmount statx symlink symlinkat sync sync_file_range syncfs tee truncate truncate64 umask unlink unlinkat
utime utimensat utimensat_time64 utimes vmsplice write writev
"""

_EXTENDED_ATTRIBUTES = """
fgetxattr flistxattr fremovexattr fsetxattr getxattr getxattrat lgetxattr listxattr listxattrat llistxattr
lremovexattr lsetxattr removexattr removexattrat setxattr setxattrat
"""

_WATCHING = """
epoll_create epoll_create1 epoll_ctl epoll_ctl_old epoll_pwait epoll_pwait2 epoll_wait epoll_wait_old eventfd
eventfd2 fanotify_mark inotify_add_watch inotify_init inotify_init1 inotify_rm_watch _newselect pipe pipe2 poll
ppoll ppoll_time64 pselect6 pselect6_time64 select signalfd signalfd4
"""

_ASYNCHRONOUS_IO = """
io_cancel io_destroy io_getevents io_pgetevents io_pgetevents_time64 io_setup io_submit
"""

_MEMORY = """
brk cachestat get_thread_area madvise map_shadow_stack membarrier memfd_create memfd_secret mincore mlock mlock2
mlockall mmap mmap2 mprotect mremap mseal msync munlock munlockall munmap pkey_alloc pkey_free pkey_mprotect
remap_file_pages set_thread_area
"""

_PROCESSES = """
execve execveat exit exit_group fork getcpu getpgid getpgrp getpid getpriority getppid getrlimit get_robust_list
getrusage getsid gettid ioprio_get ioprio_set pidfd_open pidfd_send_signal prctl prlimit64 process_mrelease rseq
sched_getaffinity sched_getattr sched_getparam sched_get_priority_max sched_get_priority_min sched_getscheduler
sched_rr_get_interval sched_rr_get_interval_time64 sched_setaffinity sched_setattr sched_setparam sched_setscheduler
sched_yield setpgid setpriority setrlimit set_robust_list setsid set_tid_address sysinfo times ugetrlimit uname
vfork wait4 waitid waitpid
"""

_IDENTITY = """
capget capset getegid getegid32 geteuid geteuid32 getgid getgid32 getgroups getgroups32 getresgid getresgid32
getresuid getresuid32 getuid getuid32 setfsgid setfsgid32 setfsuid setfsuid32 setgid setgid32 setgroups setgroups32
setregid setregid32 setresgid setresgid32 setresuid setresuid32 setreuid setreuid32 setuid setuid32
"""

_OWN_RESTRICTIONS = """
landlock_add_rule landlock_create_ruleset landlock_restrict_self lsm_get_self_attr lsm_list_modules
lsm_set_self_attr seccomp
"""

_SIGNALS = """
kill pause restart_syscall rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend
rt_sigtimedwait rt_sigtimedwait_time64 rt_tgsigqueueinfo sigaltstack sigprocmask sigreturn tgkill tkill
"""

_FUTEXES = """
futex futex_requeue futex_time64 futex_wait futex_waitv futex_wake
"""

_TIME = """
adjtimex alarm clock_adjtime clock_adjtime64 clock_getres clock_getres_time64 clock_gettime clock_gettime64
clock_nanosleep clock_nanosleep_time64 getitimer gettimeofday nanosleep setitimer time timer_create timer_delete
timer_getoverrun timer_gettime timer_gettime64 timer_settime timer_settime64 timerfd_create timerfd_gettime
timerfd_gettime64 timerfd_settime timerfd_settime64
"""

_SOCKETS = """
accept accept4 bind connect getpeername getsockname getsockopt listen recv recvfrom recvmmsg recvmmsg_time64 recvmsg
send sendmmsg sendmsg sendto setsockopt shutdown socketcall socketpair
"""

_SYSTEM_V_AND_POSIX_IPC = """
ipc mq_getsetattr mq_notify mq_open mq_timedreceive mq_timedreceive_time64 mq_timedsend mq_timedsend_time64
mq_unlink msgctl msgget msgrcv msgsnd semctl semget semop semtimedop semtimedop_time64 shmat shmctl shmdt shmget
"""

_RANDOM = "getrandom"

_RESOURCES = (_FILES, _EXTENDED_ATTRIBUTES, _WATCHING, _ASYNCHRONOUS_IO, _MEMORY, _SOCKETS, _SYSTEM_V_AND_POSIX_IPC)
_EXECUTION = (_PROCESSES, _IDENTITY, _OWN_RESTRICTIONS, _SIGNALS, _FUTEXES, _TIME, _RANDOM)
ALLOWED: tuple[str, ...] = tuple(sorted(" ".join((*_RESOURCES, *_EXECUTION)).split()))
"""Allowed to every container, with any arguments."""

_ADMINISTRATION = """
bpf clone clone3 fanotify_init fsconfig fsmount fsopen fspick lookup_dcookie mount mount_setattr move_mount open_tree
open_tree_attr perf_event_open quotactl quotactl_fd setdomainname sethostname setns syslog umount umount2 unshare
"""

ALLOWED_BY_ARCH: dict[str, tuple[str, ...]] = {
    "x86_64": ("arch_prctl", "modify_ldt", "uprobe", "uretprobe"),
    "aarch64": ("arm_fadvise64_64", "arm_sync_file_range", "breakpoint", "cacheflush", "set_tls", "sync_file_range2"),
}

ALLOWED_BY_CAPABILITY: dict[str, tuple[str, ...]] = {
    "CAP_BPF": ("bpf",),
    "CAP_DAC_READ_SEARCH": ("open_by_handle_at",),
    "CAP_PERFMON": ("perf_event_open",),
    "CAP_SYSLOG": ("syslog",),
    "CAP_SYS_ADMIN": tuple(_ADMINISTRATION.split()),
    "CAP_SYS_BOOT": ("reboot",),
    "CAP_SYS_CHROOT": ("chroot",),
    "CAP_SYS_MODULE": ("delete_module", "finit_module", "init_module"),
    "CAP_SYS_NICE": ("get_mempolicy", "mbind", "set_mempolicy", "set_mempolicy_home_node"),
    "CAP_SYS_PACCT": ("acct",),
    "CAP_SYS_PTRACE": ("kcmp", "pidfd_getfd", "process_madvise", "process_vm_readv", "process_vm_writev", "ptrace"),
    "CAP_SYS_RAWIO": ("ioperm", "iopl"),
    "CAP_SYS_TIME": ("clock_settime", "clock_settime64", "settimeofday", "stime"),
    "CAP_SYS_TTY_CONFIG": ("vhangup",),
}
"""Allowed beyond that to who has the capability: the kernel checks it again anyway."""

ALLOWED_SINCE: dict[tuple[int, int], tuple[str, ...]] = {
    (4, 8): ("process_vm_readv", "process_vm_writev", "ptrace"),
}
"""By kernel version. Before 4.8 a tracer could change a call after the filter had seen it."""

NAMESPACE_FLAGS = 0x7E02_0000
"""CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID and NEWNET in clone's first argument."""

PERSONALITIES = (0x0, 0x8, 0x2_0000, 0x2_0008, 0xFFFF_FFFF, 0xFFFF_FFFF_FFFF_FFFF)
"""PER_LINUX, PER_LINUX32, each with UNAME26, and the query (-1), zero- and sign-extended."""

AF_ALG, AF_VSOCK, AF_LAST = 38, 40, 45
"""The kernel's crypto, whose bugs reach shared page cache; the way to the hypervisor; AF_MCTP."""

NUMBERS: dict[str, int] = {
    "cachestat": 451,
    "fchmodat2": 452,
    "map_shadow_stack": 453,
    "futex_wake": 454,
    "futex_wait": 455,
    "futex_requeue": 456,
    "statmount": 457,
    "listmount": 458,
    "lsm_get_self_attr": 459,
    "lsm_set_self_attr": 460,
    "lsm_list_modules": 461,
    "mseal": 462,
    "setxattrat": 463,
    "getxattrat": 464,
    "listxattrat": 465,
    "removexattrat": 466,
    "open_tree_attr": 467,
    "file_getattr": 468,
    "file_setattr": 469,
}
"""Calls newer than an installed libseccomp may be; since 424 a number is the same everywhere."""

NUMBERS_X86_64: dict[str, int] = {"uretprobe": 335, "uprobe": 336}
"""Calls that the kernel plants itself into a probed program, which dies if they are refused."""

MULTIPLEXED_X86: dict[int, tuple[int, int | None]] = {
    -101: (102, 359),  # socket
    -102: (102, 361),  # bind
    -103: (102, 362),  # connect
    -104: (102, 363),  # listen
    -105: (102, None),  # accept
    -106: (102, 367),  # getsockname
    -107: (102, 368),  # getpeername
    -108: (102, 360),  # socketpair
    -109: (102, None),  # send
    -110: (102, None),  # recv
    -111: (102, 369),  # sendto
    -112: (102, 371),  # recvfrom
    -113: (102, 373),  # shutdown
    -114: (102, 366),  # setsockopt
    -115: (102, 365),  # getsockopt
    -116: (102, 370),  # sendmsg
    -117: (102, 372),  # recvmsg
    -118: (102, 364),  # accept4
    -119: (102, 337),  # recvmmsg
    -120: (102, 345),  # sendmmsg
    -201: (117, None),  # semop
    -202: (117, 393),  # semget
    -203: (117, 394),  # semctl
    -204: (117, None),  # semtimedop
    -211: (117, 400),  # msgsnd
    -212: (117, 401),  # msgrcv
    -213: (117, 399),  # msgget
    -214: (117, 402),  # msgctl
    -221: (117, 397),  # shmat
    -222: (117, 398),  # shmdt
    -223: (117, 395),  # shmget
    -224: (117, 396),  # shmctl
}
"""32-bit x86 has these calls twice: by libseccomp's number for them, the number of socketcall or
ipc, whose first argument is the last two digits, and the call's own number if it has one."""

NEWEST = 469
"""The newest call that this table has decided on: what is above it answers ENOSYS."""
