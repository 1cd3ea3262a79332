# Completion of video-uploader for bash; the program itself completes.
_video_uploader_completion() {
    local IFS=$'\n'
    COMPREPLY=($(COMP_WORDS="${COMP_WORDS[*]}" COMP_CWORD=$COMP_CWORD \
        _VIDEO_UPLOADER_COMPLETE=complete_bash "$1"))
}
complete -o default -F _video_uploader_completion video-uploader
